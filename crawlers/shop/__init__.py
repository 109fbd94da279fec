"""Demo: three small web shops on 127.0.0.1 that serve the sample images.

    shop-a.demo.test   JSON-LD (Product, BreadcrumbList), ``<link rel="next">``
    shop-b.demo.test   microdata, ``?page=2`` in a link with the text "Next"
    shop-c.demo.test   plain HTML and CSS classes, ``/page/2/``

The hosts are reserved names without DNS records; clients get a connect map from `process.running_shop`. Only the stages
``crawl`` and ``fetch`` start the shops, and only if params.yaml says ``crawl.source: demo``. The modules:

    drawing     images of whole garments and close-ups, drawn from 28 px images
    wording     taxonomy, brands, materials
    catalogue   products and URLs of each shop
    templates   HTML of each shop
    server      HTTP server
    process     the server as a child process
"""
