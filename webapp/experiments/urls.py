"""Addresses of the pages about experiments and workers."""

from django.urls import path

from webapp.experiments import views

urlpatterns = [
    path("", views.index, name="index"),
    path("workers", views.workers, name="workers"),
]
