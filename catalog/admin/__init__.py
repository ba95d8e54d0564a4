"""The admin: one module for each area. Importing this package registers every page."""

from django.contrib import admin

from catalog.admin import assets as assets
from catalog.admin import changes as changes
from catalog.admin import destinations as destinations
from catalog.admin import ledger as ledger
from catalog.admin import series as series
from catalog.admin import sources as sources
from catalog.admin import users as users

admin.site.index_template = "catalog/dashboard.html"
admin.site.index_title = "Overview"
