"""URLs of the pages about experiments, iterations, workers and the activity log."""

from django.urls import path

from webapp.dashboard import views

urlpatterns = [
    path("", views.list_experiments, name="index"),
    path("workers", views.show_workers, name="workers"),
    path("activity", views.show_activity_log, name="activity"),
    path("experiments/actions", views.request_bulk_action, name="bulk_action"),
    path("experiments/<str:name>", views.show_experiment, name="experiment"),
    path("experiments/<str:name>/actions", views.request_action, name="request_action"),
    path("experiments/<str:name>/details", views.edit_details, name="details"),
    path("experiments/<str:name>/archive", views.change_archive, name="archive"),
    path("experiments/<str:name>/delete", views.delete_experiment, name="delete"),
    path("experiments/<str:name>/ownership", views.edit_ownership, name="ownership"),
    path(
        "experiments/<str:name>/iterations/<int:number>",
        views.show_iteration,
        name="iteration",
    ),
    path(
        "experiments/<str:name>/iterations/<int:number>/attempts/<int:pk>/output",
        views.show_attempt_output,
        name="attempt_output",
    ),
]
