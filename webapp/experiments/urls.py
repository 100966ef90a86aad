"""Addresses of the pages about experiments, iterations, workers and the log."""

from django.urls import path

from webapp.experiments import owner_views, views

urlpatterns = [
    path("", views.index, name="index"),
    path("workers", views.workers, name="workers"),
    path("log", views.log, name="log"),
    path("experiments/<str:name>", views.experiment, name="experiment"),
    path("experiments/<str:name>/steer", views.steer, name="steer"),
    path("experiments/<str:name>/ownership", owner_views.ownership, name="ownership"),
    path(
        "experiments/<str:name>/iterations/<int:number>",
        views.iteration,
        name="iteration",
    ),
]
