"""Addresses of the pages on which models are tried and published."""

from django.urls import path

from webapp.trying import views

urlpatterns = [
    path("experiments/<str:name>/try", views.try_models, name="try"),
    path("experiments/<str:name>/try/<int:number>", views.try_result, name="try_result"),
    path("experiments/<str:name>/try/<int:number>/cancel", views.cancel_try, name="cancel_try"),
    path("experiments/<str:name>/iterations/<int:number>/publish", views.publish, name="publish"),
    path(
        "experiments/<str:name>/iterations/<int:number>/publish/archive",
        views.published_archive,
        name="published_archive",
    ),
]
