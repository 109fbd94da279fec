"""Image URLs to images: each distinct URL asked for once, each outcome with a reason, nothing lost on a kill.

`client` makes one attempt (`robots`: whether it may, `body`: how much it takes, `check`: whether that is an image),
`hosts` says when the next one may start, `download` goes through all URLs. `spool` keeps what has arrived: bytes in
`blobs`, all else in an `index`. `asking` brings downloads to a spool, `parts` has several processes do so, `images`
puts these together. `collect` writes the sorted outputs, `restore` makes a spool of outputs again. All speak in the
words of `outcome`.
"""
