"""Settings of the shop: those of Oscar's guide, a language, and a thumbnailer whose originals can be reached.

Oscar's templates show thumbnails only. With its default, sorl-thumbnail, their names are hashes and no page links to
the original; with easy-thumbnails, which it also supports, their names contain the name of the original.
"""

import os
from pathlib import Path

import oscar
from oscar.defaults import *  # noqa: F403 (Oscar's guide asks for it)

FOLDER = Path(os.environ["OSCAR_FOLDER"])  # database, images and search index

DEBUG = False
SECRET_KEY = "a shop on loopback, for the time of a benchmark"
ALLOWED_HOSTS = ["*"]
INSTALLED_APPS = [*oscar.INSTALLED_APPS, "easy_thumbnails"]
OSCAR_THUMBNAILER = "oscar.core.thumbnails.EasyThumbnails"
DATABASES = {"default": {"ENGINE": "django.db.backends.sqlite3", "NAME": FOLDER / "db.sqlite"}}
HAYSTACK_CONNECTIONS = {
    "default": {"ENGINE": "haystack.backends.whoosh_backend.WhooshEngine", "PATH": str(FOLDER / "index")}
}
HAYSTACK_SIGNAL_PROCESSOR = "haystack.signals.BaseSignalProcessor"  # indexed once, at the end of `seed`
MEDIA_ROOT, MEDIA_URL, STATIC_URL = str(FOLDER / "media"), "/media/", "/static/"
OSCAR_IMAGE_FOLDER = "images/products/"
SITE_ID = 1
ROOT_URLCONF = "urls"
DEFAULT_AUTO_FIELD = "django.db.models.AutoField"
USE_TZ = True
LANGUAGE_CODE = os.environ.get("OSCAR_LANGUAGE", "en-gb")  # of the pages; the catalogue stays as it is
LANGUAGES = [(LANGUAGE_CODE, "the only one")]
MIDDLEWARE = [
    "django.contrib.sessions.middleware.SessionMiddleware",
    "django.middleware.csrf.CsrfViewMiddleware",
    "django.contrib.auth.middleware.AuthenticationMiddleware",
    "django.contrib.messages.middleware.MessageMiddleware",
    "django.contrib.flatpages.middleware.FlatpageFallbackMiddleware",
    "oscar.apps.basket.middleware.BasketMiddleware",
]
TEMPLATES = [
    {
        "BACKEND": "django.template.backends.django.DjangoTemplates",
        "APP_DIRS": True,
        "OPTIONS": {
            "context_processors": [
                "django.template.context_processors.request",
                "django.template.context_processors.i18n",
                "django.contrib.auth.context_processors.auth",
                "django.contrib.messages.context_processors.messages",
                "oscar.apps.search.context_processors.search_form",
                "oscar.apps.checkout.context_processors.checkout",
                "oscar.apps.communication.notifications.context_processors.notifications",
                "oscar.core.context_processors.metadata",
            ]
        },
    }
]
