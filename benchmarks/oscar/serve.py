"""``python serve.py``: serves the shop on a free port of loopback, prints the port, and ends when stdin is closed."""

import logging
import os
import sys
import threading

import django
from django.core.wsgi import get_wsgi_application
from waitress.server import create_server

os.environ.setdefault("DJANGO_SETTINGS_MODULE", "settings")
django.setup()
logging.getLogger("waitress.queue").setLevel(logging.ERROR)  # that a request waits for a thread is no news here
server = create_server(get_wsgi_application(), host="127.0.0.1", port=0, threads=4)
threading.Thread(target=server.run, daemon=True).start()
print(server.effective_port, flush=True)
sys.stdin.read()
