// Whoever sets a first or last day means those days.
"use strict";

for (const id of ["from", "to"]) {
  document.getElementById(id).addEventListener("input", () => {
    document.getElementById("span").value = "dates";
  });
}
