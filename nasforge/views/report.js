"use strict";
// A click on a mark of a figure shows its trial. Without this script the marks have their short titles.
const data = JSON.parse(document.getElementById("trials").textContent);
const panel = document.getElementById("detail");

function row(table, name, value) {
  const line = table.insertRow(), head = document.createElement("th");
  head.scope = "row";
  head.textContent = name;
  line.append(head);
  line.insertCell().textContent = value;
}

function show(number) {
  const one = data.trials[number];
  panel.replaceChildren();
  const title = document.createElement("h2");
  title.textContent = "Trial " + number + (one ? ", " + one[0] : "");
  panel.append(title);
  if (one) {
    const table = document.createElement("table");
    table.className = "list pairs";
    data.metrics.forEach((name, i) => { if (one[1][i] !== "") row(table, name, one[1][i]); });
    data.keys.forEach((key, i) => { if (one[2][i] >= 0) row(table, key, data.options[i][one[2][i]]); });
    panel.append(table);
  } else {
    const text = document.createElement("p");
    text.textContent = "Its decisions are not in this file: " + data.command.replace("NUMBER", number);
    panel.append(text);
  }
  panel.hidden = false;
  panel.scrollTop = 0;
}

document.addEventListener("click", (event) => {
  const mark = event.target.closest('a[href^="#trial-"]');
  if (!mark) { if (!panel.contains(event.target)) panel.hidden = true; return; }
  event.preventDefault();
  show(mark.getAttribute("href").slice(7));
});
document.addEventListener("keydown", (event) => { if (event.key === "Escape") panel.hidden = true; });
