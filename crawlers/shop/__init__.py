"""The demo shop: three shops that serve the sample images over HTTP on 127.0.0.1, as real ones would.

    shop-a.demo.test   JSON-LD (Product, BreadcrumbList), ``<link rel="next">``
    shop-b.demo.test   microdata, ``?page=2`` behind a link that says "Next"
    shop-c.demo.test   bare HTML and CSS classes, ``/page/2/``

The hosts are reserved names that no DNS answers for; clients get a connect map (`running_shop`). Only ``crawl``
and ``fetch`` start the shop, and only when params.yaml says ``crawl.source: demo``; nothing else knows of it.

    images    what is drawn from a 28 px image: the whole garment, or a close-up
    wording     the words: taxonomy, brands, materials
    catalogue   what is sold where, under which URL
    templates   the three kinds of mark-up
    server      HTTP
    running     the shop as a child process
"""
