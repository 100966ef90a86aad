"""URLs of the notification page."""

from django.urls import path

from webapp.notifications import views

urlpatterns = [
    path("account/notifications", views.edit_notifications, name="notifications"),
    path("account/notifications/secret", views.renew_secret, name="renew_webhook_secret"),
    path("account/notifications/test", views.send_test, name="send_test_notification"),
]
