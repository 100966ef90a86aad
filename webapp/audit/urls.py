"""Addresses of the audit's pages."""

from django.urls import path

from webapp.audit import desk_views, views

urlpatterns = [
    path("audits", views.audits, name="audits"),
    path("audits/<int:pk>", views.report, name="audit_report"),
    path("audits/<int:pk>/close", views.close, name="audit_close"),
    path("audits/<int:pk>/auditors", views.auditors, name="audit_auditors"),
    path("audits/<int:pk>/export/<str:form>", views.export, name="audit_export"),
    path("audits/<int:pk>/import", views.import_answers, name="audit_import"),
    path("audits/<int:pk>/desk", desk_views.next_item, name="audit_desk"),
    path("audits/<int:pk>/skipped", desk_views.take_skipped_again, name="audit_skipped"),
    path("audits/<int:pk>/items/<int:number>", desk_views.item, name="audit_item"),
    path("audits/<int:pk>/items/<int:number>/draft", desk_views.keep_draft, name="audit_draft"),
    path("audits/<int:pk>/items/<int:number>/skip", desk_views.skip, name="audit_skip"),
    path("audits/<int:pk>/items/<int:number>/undo", desk_views.undo, name="audit_undo"),
    path("audits/<int:pk>/items/<int:number>/reveal", desk_views.reveal, name="audit_reveal"),
    path("experiments/<str:name>/audits", views.experiment_audits, name="experiment_audits"),
    path(
        "experiments/<str:name>/audits/<int:number>",
        views.iteration_audits,
        name="iteration_audits",
    ),
    path("experiments/<str:name>/audits/new", views.new_batch, name="audit_new"),
    path("experiments/<str:name>/audits/gate", views.set_gate, name="audit_gate"),
    path("experiments/<str:name>/audits/gate/remove", views.remove_gate, name="audit_gate_remove"),
    path("experiments/<str:name>/audits/override", views.override, name="audit_override"),
]
