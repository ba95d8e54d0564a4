"""Users and groups, in the look of the other pages."""

from django.contrib import admin
from django.contrib.auth.admin import GroupAdmin
from django.contrib.auth.admin import UserAdmin
from django.contrib.auth.models import Group
from django.contrib.auth.models import User
from unfold.admin import ModelAdmin
from unfold.forms import AdminPasswordChangeForm
from unfold.forms import UserChangeForm
from unfold.forms import UserCreationForm

admin.site.unregister(User)
admin.site.unregister(Group)


@admin.register(User)
class CatalogUserAdmin(UserAdmin, ModelAdmin):  # type: ignore[type-arg]  # it takes none at run time
    """Who may sign in."""

    form = UserChangeForm
    add_form = UserCreationForm
    change_password_form = AdminPasswordChangeForm


@admin.register(Group)
class CatalogGroupAdmin(GroupAdmin, ModelAdmin):
    """What a group of users may do."""
