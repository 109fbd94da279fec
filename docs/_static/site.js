// Code and tables that scroll sideways can be reached and scrolled with the keyboard.
for (const block of document.querySelectorAll("article pre, article .table-wrapper, article p:has(> img)")) {
  block.tabIndex = 0;
}
