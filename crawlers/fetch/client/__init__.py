"""One image URL over HTTP.

`client`: one attempt. `robots`: whether robots.txt allows it. `body`: reading a limited body. `hosts`: when a host may
be asked next. `download`: all URLs of a process. `outcome`: what became of a URL.
"""
