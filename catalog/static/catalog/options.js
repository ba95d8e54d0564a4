// Shows the option fields of the chosen vendor or kind and hides those of the others.
// Without JavaScript the server shows the right group after a save.
"use strict";
{
    const HIDDEN = "option-group-hidden";
    const PREFIX = "option-group--";

    // as option_class() in catalog/admin/options.py: the name itself may hold what unfold takes for a tab
    function classOf(owner) {
        const bytes = [...new TextEncoder().encode(owner)];
        return PREFIX + bytes.map((byte) => byte.toString(16).padStart(2, "0")).join("");
    }

    function showGroup(owner) {
        for (const group of document.querySelectorAll("fieldset.option-group")) {
            group.classList.toggle(HIDDEN, !group.classList.contains(classOf(owner)));
        }
    }

    function ownerOf(select) {
        const owners = select.dataset.optionOwners;
        if (!owners) {
            return select.value;
        }
        // the options belong to the vendor of the chosen row; a row made in a popup is not known here
        return JSON.parse(owners)[select.value] ?? "";
    }

    document.addEventListener("DOMContentLoaded", () => {
        const select = document.querySelector("[data-option-select]");
        if (!select) {
            return;
        }
        const show = () => showGroup(ownerOf(select));
        select.addEventListener("change", show);
        // select2 tells jQuery only
        if (window.django && window.django.jQuery) {
            window.django.jQuery(select).on("change", show);
        }
        show();
    });
}
