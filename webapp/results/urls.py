"""URLs of the result pages."""

from django.urls import path

from webapp.results import views

_ITERATION = "experiments/<str:name>/iterations/<int:number>"

urlpatterns = [
    path(f"{_ITERATION}/prompts", views.list_prompts, name="prompts"),
    path(f"{_ITERATION}/prompts/<str:prompt_id>", views.show_prompt, name="prompt"),
    path(f"{_ITERATION}/prompts/<str:prompt_id>/battle", views.show_battle, name="battle"),
    path(f"{_ITERATION}/prompts/<str:prompt_id>/audit", views.send_to_audit, name="send_to_audit"),
    path(f"{_ITERATION}/what-if", views.show_what_if, name="what-if"),
    path(
        "experiments/<str:name>/prompts/<str:prompt_id>",
        views.show_across_models,
        name="prompt_across_models",
    ),
    path(
        "experiments/<str:name>/prompts/<str:prompt_id>/compare",
        views.ask_all_models,
        name="compare_models",
    ),
    path("experiments/<str:name>/files", views.list_files, name="files"),
    path("experiments/<str:name>/files/<path:path>", views.send_file, name="file"),
]
