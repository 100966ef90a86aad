"""Addresses of the page about notices."""

from django.urls import path

from webapp.notifications import views

urlpatterns = [
    path("people/notices", views.edit_notifications, name="notices"),
    path("people/notices/secret", views.renew_secret, name="renew_notice_secret"),
    path("people/notices/test", views.send_test, name="send_test_notice"),
]
