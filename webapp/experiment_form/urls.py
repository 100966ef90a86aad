"""URLs of these pages."""

from django.urls import path

from webapp.experiment_form import compare, views

urlpatterns = [
    path("experiments/new", views.create_experiment, name="new_experiment"),
    path("experiments/new/prompts", views.preview_prompts, name="new_experiment_prompts"),
    path("jobs/<int:pk>", views.show_launch, name="job"),
    path("experiments/new/checks/<int:pk>", views.show_model_check, name="model_check"),
    path("experiments/compare", compare.compare_experiments, name="compare"),
    path("experiments/<str:name>/settings", views.edit_settings, name="settings"),
    path("experiments/<str:name>/fork", views.fork_experiment, name="fork"),
    path("experiments/<str:name>/duplicate", views.duplicate_experiment, name="duplicate"),
]
