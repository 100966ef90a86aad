"""Addresses of these pages."""

from django.urls import path

from webapp.launching import comparing, views

urlpatterns = [
    path("experiments/new", views.new, name="new_experiment"),
    path("experiments/new/prompts", views.prompts, name="new_experiment_prompts"),
    path("experiments/new/orders/<int:pk>", views.order, name="launch_order"),
    path("experiments/compare", comparing.compare, name="compare"),
    path("experiments/<str:name>/duplicate", views.duplicate, name="duplicate"),
]
