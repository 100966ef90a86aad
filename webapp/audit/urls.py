"""URLs of the audit pages."""

from django.urls import path

from webapp.audit import adjudication_views, annotation_views, views

urlpatterns = [
    path("audits", views.list_audits, name="audits"),
    path("audits/items", adjudication_views.list_items, name="audit_items"),
    path("audits/items.csv", adjudication_views.download_items, name="audit_items_csv"),
    path("audits/answers.csv", adjudication_views.download_answers, name="audit_answers_csv"),
    path(
        "audits/<int:pk>/items/<int:number>/review",
        adjudication_views.review_item,
        name="audit_review",
    ),
    path(
        "audits/<int:pk>/items/<int:number>/review/draft",
        adjudication_views.save_adjudication_draft,
        name="audit_review_draft",
    ),
    path(
        "audits/<int:pk>/items/<int:number>/review/undo",
        adjudication_views.undo_adjudication,
        name="audit_review_undo",
    ),
    path("audits/<int:pk>", views.show_report, name="audit_report"),
    path("audits/<int:pk>/close", views.set_batch_status, name="audit_close"),
    path("audits/<int:pk>/auditors", views.update_auditors, name="audit_auditors"),
    path("audits/<int:pk>/export/<str:form>", views.download_export, name="audit_export"),
    path("audits/<int:pk>/import", views.import_answers, name="audit_import"),
    path("audits/<int:pk>/annotate", annotation_views.show_next_item, name="annotate"),
    path("audits/<int:pk>/skipped", annotation_views.requeue_skipped, name="audit_skipped"),
    path("audits/<int:pk>/items/<int:number>", annotation_views.annotate_item, name="audit_item"),
    path(
        "audits/<int:pk>/items/<int:number>/draft", annotation_views.save_draft, name="audit_draft"
    ),
    path("audits/<int:pk>/items/<int:number>/skip", annotation_views.skip_item, name="audit_skip"),
    path(
        "audits/<int:pk>/items/<int:number>/undo", annotation_views.undo_answer, name="audit_undo"
    ),
    path(
        "audits/<int:pk>/items/<int:number>/reveal",
        annotation_views.reveal_item,
        name="audit_reveal",
    ),
    path("experiments/<str:name>/audits", views.show_experiment_audits, name="experiment_audits"),
    path(
        "experiments/<str:name>/audits/<int:number>",
        views.show_iteration_audits,
        name="iteration_audits",
    ),
    path("experiments/<str:name>/audits/new", views.create_batch, name="audit_new"),
    path("experiments/<str:name>/audits/gate", views.set_gate, name="audit_gate"),
    path("experiments/<str:name>/audits/gate/remove", views.remove_gate, name="audit_gate_remove"),
    path("experiments/<str:name>/audits/override", views.override_gate, name="audit_override"),
]
