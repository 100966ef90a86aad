"""Addresses of the pages about results."""

from django.urls import path

from webapp.results import views

_ITERATION = "experiments/<str:name>/iterations/<int:number>"

urlpatterns = [
    path(f"{_ITERATION}/prompts", views.prompts, name="prompts"),
    path(f"{_ITERATION}/prompts/<str:prompt_id>", views.prompt, name="prompt"),
    path(f"{_ITERATION}/prompts/<str:prompt_id>/battle", views.battle, name="battle"),
    path(f"{_ITERATION}/what-if", views.what_if, name="what-if"),
    path("experiments/<str:name>/prompts/<str:prompt_id>", views.across, name="across"),
    path("experiments/<str:name>/prompts/<str:prompt_id>/ask", views.ask_all, name="ask_all"),
    path("experiments/<str:name>/files", views.files, name="files"),
    path("experiments/<str:name>/files/<path:path>", views.file, name="file"),
]
