"""The Scrapy project of the crawl: spider, settings, middlewares, download handler, browser and its proxy.

`crawlers.pages` reads the content of pages.
"""
