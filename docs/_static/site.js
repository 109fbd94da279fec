// Code and tables that scroll sideways can be reached and scrolled with the keyboard.
for (const block of document.querySelectorAll("article pre, article .table-wrapper")) {
  block.tabIndex = 0;
}
