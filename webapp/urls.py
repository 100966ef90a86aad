"""Every address of the site."""

from django.contrib import admin
from django.urls import path

from webapp.experiments import views

urlpatterns = [
    path("", views.index, name="index"),
    path("workers", views.workers, name="workers"),
    path("healthz", views.healthz, name="healthz"),
    path("admin/", admin.site.urls),
]
