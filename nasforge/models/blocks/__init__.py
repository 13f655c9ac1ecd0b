"""Building blocks of networks: plain torch modules called as `Block(in_channels, out_channels, stride, **settings)`."""
