"use strict";
// Ranges on the axes of parallel coordinates: drag along an axis to choose one, click the axis to remove it. Lines outside
// a range fade. The ranges stay when live.js replaces the drawing.
const ranges = new Map();
const SVG = "http://www.w3.org/2000/svg";

function heights(line) { return line.getAttribute("d").slice(1).split("L").map((place) => Number(place.split(" ")[1])); }

function show(figure) {
  const areas = [...figure.querySelectorAll(".rail-area")];
  const chosen = areas.filter((area) => ranges.has(area.dataset.key)).map((area) => [Number(area.dataset.axis), ...ranges.get(area.dataset.key)]);
  figure.querySelectorAll(".chosen").forEach((mark) => mark.remove());
  for (const area of areas) {
    if (!ranges.has(area.dataset.key)) continue;
    const [top, bottom] = ranges.get(area.dataset.key), mark = document.createElementNS(SVG, "rect");
    for (const [name, value] of [["x", Number(area.getAttribute("x")) + 8], ["y", top], ["width", 16], ["height", bottom - top], ["class", "chosen"]]) mark.setAttribute(name, value);
    area.before(mark);
  }
  const inside = [];
  for (const link of figure.querySelectorAll("a[data-trial]")) {
    const places = heights(link.firstElementChild);
    const passes = chosen.every(([axis, top, bottom]) => places[axis] >= top - 1 && places[axis] <= bottom + 1);
    link.classList.toggle("out", !passes);
    if (passes) inside.unshift(link);
  }
  const words = document.getElementById("ranges");
  if (!words) return;
  words.replaceChildren();
  if (!chosen.length) { words.textContent = "Drag along an axis to choose a range. Click a line to open its trial."; return; }
  words.append(`${inside.length} of ${figure.querySelectorAll("a[data-trial]").length} lines pass. `);
  if (inside.length) {
    const best = document.createElement("a");
    best.href = inside[0].getAttribute("href");
    best.textContent = `The best of them is trial ${inside[0].dataset.trial}`;
    words.append(best, ". ");
  }
  if (inside.length > 1) {
    const some = inside.slice(0, 6), all = document.createElement("a");
    all.href = `compare?trials=${some.map((link) => link.dataset.trial).join(",")}`;
    all.textContent = `Compare the best ${some.length}`;
    words.append(all, ". ");
  }
  const clear = document.createElement("button");
  clear.textContent = "Remove the ranges";
  clear.addEventListener("click", () => { ranges.clear(); showAll(); });
  words.append(clear);
}

function showAll() { document.querySelectorAll("figure.parallel").forEach(show); }

function height(area, event) {
  const drawing = area.ownerSVGElement, place = new DOMPoint(event.clientX, event.clientY).matrixTransform(drawing.getScreenCTM().inverse());
  const top = Number(area.getAttribute("y"));
  return Math.min(top + Number(area.getAttribute("height")), Math.max(top, place.y));
}

document.addEventListener("pointerdown", (event) => {
  const area = event.target.closest?.(".rail-area");
  if (!area || event.button) return;
  event.preventDefault();
  const begin = height(area, event), figure = area.closest("figure");
  const move = (next) => {
    const end = height(area, next);
    if (Math.abs(end - begin) < 4) ranges.delete(area.dataset.key);
    else ranges.set(area.dataset.key, [Math.min(begin, end), Math.max(begin, end)]);
    show(figure);
  };
  const stop = (last) => { move(last); removeEventListener("pointermove", move); removeEventListener("pointerup", stop); };
  addEventListener("pointermove", move);
  addEventListener("pointerup", stop);
});
document.addEventListener("replaced", showAll);
showAll();
