"""Fetch and authorize in one step: without permission, an object appears not to exist."""

from collections.abc import Callable
from functools import wraps
from typing import Final

from django.conf import settings
from django.contrib.auth.decorators import permission_required
from django.contrib.auth.models import AbstractBaseUser, AnonymousUser, User
from django.core.exceptions import PermissionDenied
from django.db.models import Q, QuerySet
from django.db.models.functions import Now
from django.db.models.signals import pre_delete
from django.http import Http404, HttpRequest, HttpResponseBase
from django.shortcuts import get_object_or_404, redirect

from webapp.accounts.roles import ANSWER, MANAGE_ACCOUNTS, RUN, RUN_ALL, SEE
from webapp.experiments.models import Experiment, Job, JobKind, JobStatus

_DELETED: Final = "the account that requested this was deleted"
_FOR_VIEWERS: Final = frozenset({JobKind.CHAT})
"""Kinds of jobs that require permission to see the experiment, but not to control it."""

AnyUser = AbstractBaseUser | AnonymousUser
View = Callable[[HttpRequest], HttpResponseBase]

require_view: Final = permission_required(SEE, raise_exception=True)
"""Decorator that requires the permission to see experiments."""
require_run: Final = permission_required(RUN, raise_exception=True)
"""Decorator that requires the permission to start and control experiments."""


def get_user(request: HttpRequest) -> User:
    """Return the signed-in user.

    Raises:
        PermissionDenied: the request is not authenticated.
    """
    if not isinstance(request.user, User):
        raise PermissionDenied("sign-in required")
    return request.user


def require_view_or_audit(view: View) -> View:
    """Decorator of the home page: users who can only audit are redirected to the audits."""

    @wraps(view)
    def decide(request: HttpRequest) -> HttpResponseBase:
        user = _get_active_user(request.user)
        if user is not None and not user.has_perm(SEE) and user.has_perm(ANSWER):
            return redirect("audits")
        return require_view(view)(request)

    return decide


def get_users_with_permission(
    permission: str, *, superusers: bool = True, is_active: bool | None = True
) -> QuerySet[User]:
    """Return the accounts that have a permission.

    Args:
        superusers: whether to include superusers.
        is_active: None for all accounts, including those that cannot sign in.
    """
    return User.objects.with_perm(
        permission,
        is_active=is_active,  # type: ignore[arg-type]  # None is Django's own, unknown to stubs
        include_superusers=superusers,
        backend=settings.AUTHENTICATION_BACKENDS[0],
    )


def can_touch_account(user: AnyUser, account: User) -> bool:
    """Whether a user may change an account, its password, devices, tokens and sessions.

    Superusers may touch all accounts, admins those of users who are not superusers.
    """
    actor = _get_active_user(user)
    if actor is None:
        return False
    return actor.is_superuser or (actor.has_perm(MANAGE_ACCOUNTS) and not account.is_superuser)


def get_visible_experiments(person: AnyUser) -> QuerySet[Experiment]:
    """Return the experiments a user can see: private ones only as owner or admin."""
    user = _get_active_user(person)
    if user is None or not user.has_perm(SEE):
        return Experiment.objects.none()
    if user.has_perm(RUN_ALL):
        return Experiment.objects.all()
    return Experiment.objects.filter(Q(is_private=False) | Q(owner=user))


def get_viewable_experiment(person: AnyUser, name: str) -> Experiment:
    """Find an experiment that a user can see.

    Raises:
        Http404: it does not exist, or it is private and owned by another user.
    """
    return get_object_or_404(get_visible_experiments(person), name=name)


def can_control(person: AnyUser, experiment: Experiment) -> bool:
    """Whether a user can control an experiment: owner, admin, or anyone if it has no owner."""
    user = _get_active_user(person)
    if user is None or not user.has_perm(RUN):
        return False
    return user.has_perm(RUN_ALL) or experiment.owner_id in (None, user.pk)


def get_controllable_experiment(person: AnyUser, name: str) -> Experiment:
    """Find an experiment that a user can control.

    Raises:
        Http404: it does not exist, or it is private and owned by another user.
        PermissionDenied: the user may see it but not control it.
    """
    experiment = get_viewable_experiment(person, name)
    if not can_control(person, experiment):
        raise PermissionDenied(f"{experiment} is owned by another user. Ask the owner or an admin.")
    return experiment


def can_transfer(person: AnyUser, experiment: Experiment) -> bool:
    """Whether a user can change an experiment's owner and visibility: its owner, and admins."""
    user = _get_active_user(person)
    if user is None or not user.has_perm(RUN):
        return False
    return user.has_perm(RUN_ALL) or experiment.owner_id == user.pk


def get_transferable_experiment(person: AnyUser, name: str) -> Experiment:
    """Find an experiment whose owner and visibility a user can change.

    Raises:
        Http404: it does not exist, or it is private and owned by another user.
        PermissionDenied: the user may see it but does not own it.
    """
    experiment = get_viewable_experiment(person, name)
    if not can_transfer(person, experiment):
        raise PermissionDenied(f"only the owner of {experiment}, or an admin, may transfer it")
    return experiment


def get_requested_job(person: AnyUser, pk: int, *kinds: JobKind) -> Job:
    """Find a job of some kinds that a user requested; admins can see all.

    Raises:
        Http404: the job does not exist, or another user requested it.
    """
    job = get_object_or_404(Job.objects.select_related("experiment"), pk=pk, kind__in=kinds)
    user = _get_active_user(person)
    if user is None or (job.created_by_id != user.pk and not user.has_perm(RUN_ALL)):
        raise Http404("job not found")
    return job


def explain_lost_authority(job: Job) -> str:
    """Return why the user who requested a job may no longer do so; empty if they may.

    Between the request and its run, an account can be deactivated or lose a role, and an
    experiment can become private or get another owner.
    """
    if job.created_by_id is None:
        return ""
    user = User.objects.filter(pk=job.created_by_id).first()  # its current rights
    if user is None:
        return _DELETED
    if not user.is_active or not user.has_perm(RUN):
        return f"the account {user} may no longer start and control experiments"
    experiment = Experiment.objects.filter(pk=job.experiment_id or 0).first()
    if experiment is None:
        return ""
    if not get_visible_experiments(user).filter(pk=experiment.pk).exists():
        return f"the account {user} may no longer see experiment {job.experiment_name!r}"
    if not _may_request(user, JobKind(job.kind), experiment):
        return f"the account {user} may no longer control experiment {job.experiment_name!r}"
    return ""


def _may_request(user: User, kind: JobKind, experiment: Experiment) -> bool:
    """Whether a user who can see an experiment may request a kind of job about it."""
    if kind in _FOR_VIEWERS:
        return True
    return (can_transfer if kind == JobKind.DELETE else can_control)(user, experiment)


def refuse_jobs_of_account(instance: User, **_: object) -> None:
    """Refuse the pending jobs of an account that is being deleted."""
    Job.objects.filter(created_by=instance, status=JobStatus.WAITING).update(
        status=JobStatus.REFUSED,
        finished=Now(),
        message=_DELETED,
    )


def connect_signals() -> None:
    """Refuse pending jobs before their account is deleted."""
    pre_delete.connect(refuse_jobs_of_account, sender=User, dispatch_uid="refuse_jobs")


def _get_active_user(person: AnyUser) -> User | None:
    return person if isinstance(person, User) and person.is_active else None


def get_visible_jobs(person: AnyUser) -> QuerySet[Job]:
    """Select jobs of experiments that a user may see, and the user's own; admins see all."""
    if isinstance(person, User) and person.has_perm(RUN_ALL):
        return Job.objects.all()
    own = Q(experiment=None, created_by=person.pk)
    return Job.objects.filter(Q(experiment__in=get_visible_experiments(person)) | own)
