"""Addresses of the pages on which models are tried and published."""

from django.urls import path

from webapp.playground import views

urlpatterns = [
    path("experiments/<str:name>/try", views.show_playground, name="try"),
    path("experiments/<str:name>/try/<int:number>", views.show_conversation, name="try_result"),
    path(
        "experiments/<str:name>/try/<int:number>/cancel",
        views.cancel_playground_turn,
        name="cancel_try",
    ),
    path("experiments/<str:name>/iterations/<int:number>/publish", views.publish, name="publish"),
    path(
        "experiments/<str:name>/iterations/<int:number>/publish/archive",
        views.send_archive,
        name="published_archive",
    ),
]
