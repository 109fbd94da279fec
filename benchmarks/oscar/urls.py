"""URLs of Oscar, its images and its style sheets."""

from django.apps import apps
from django.conf import settings
from django.contrib.staticfiles.views import serve as serve_static
from django.urls import include, path
from django.views.static import serve

urlpatterns = [
    path("i18n/", include("django.conf.urls.i18n")),
    path("media/<path:path>", serve, {"document_root": settings.MEDIA_ROOT}),
    path("static/<path:path>", serve_static, {"insecure": True}),  # also without DEBUG
    path("", include(apps.get_app_config("oscar").urls[0])),
]
