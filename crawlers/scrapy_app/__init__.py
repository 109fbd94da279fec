"""Following links: from category pages to product pages. What is on a page is read by `crawlers.pages`."""
