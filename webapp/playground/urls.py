"""URLs of the playground and publishing pages."""

from django.urls import path

from webapp.playground import views

urlpatterns = [
    path("experiments/<str:name>/playground", views.show_playground, name="playground"),
    path(
        "experiments/<str:name>/playground/<int:number>",
        views.show_conversation,
        name="conversation",
    ),
    path(
        "experiments/<str:name>/playground/<int:number>/cancel",
        views.cancel_playground_turn,
        name="cancel_turn",
    ),
    path("experiments/<str:name>/iterations/<int:number>/publish", views.publish, name="publish"),
    path(
        "experiments/<str:name>/iterations/<int:number>/publish/archive",
        views.send_archive,
        name="published_archive",
    ),
]
