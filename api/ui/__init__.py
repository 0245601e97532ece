"""`/ui`: the pages for whoever is on duty, made on the server, with little script and nothing from elsewhere.

The frame (`frame.py`) does what all pages need: who is logged in, what their role allows, that a form came from one of
our own pages, security headers, and errors as pages. A page adds only what it shows and what it does:

1. A module `api/ui/NAME.py` with `PAGE = Page("NAME", "Title", view, parts={...}, actions={...})`, named in `pages.py`.
   - `view(visit)` answers `GET /ui/NAME`: `return visit.page("NAME.html", rows=...)`.
   - `parts` answer `GET /ui/NAME/PART`, for scripts and downloads: `return visit.page("_NAME_rows.html", ...)`,
     `visit.json(...)`, or any Starlette response. A part called `live` is left out of the log, as it is asked often.
   - `actions` answer `POST /ui/NAME/ACTION`: `Action(handler)` needs an operator, `Action(handler, role="viewer")` lets
     everybody in who may look. The handler reads `visit.form` (or `visit.body` of JSON) and ends with
     `return visit.done("Paused chat.")`, which leads back to the page and says so there. Who acts: `visit.actor`.
2. A template `templates/NAME.html` that extends `layout.html` and fills `{% block main %}`. Every form that posts has
   `{{ csrf() }}` in it, and stands in `{% if visit.may_act %}`: a viewer does not see what would be refused.
   `_macros.html` has what looks alike everywhere.
3. What changes by itself: an element with an id and `data-live="/ui/NAME/live"`, whose part answers with that element's
   inside; `static/ui.js` asks every two seconds while the page is seen, and changes only what differs. Own scripts are
   files in `static/`, named by `{{ static("NAME.js") }}` in `{% block scripts %}`; the policy allows no script, style
   or handler inside of a page, nor a `style=` attribute. A script that posts sends the header `x-csrf-token`, from
   `document.body.dataset.csrf`.
4. Errors: raise an `AqueductError`; a page with its status is made of it, or JSON for a script that says
   `accept: application/json`. RedisUnavailable, RedisRefused and StoreError need no care.

Templates escape all that they show. Confirmation: `data-confirm="Retire chat?"` on a button asks with a script, and
without one the action asks on a page: `if not visit.is_confirmed: return visit.ask("Retire chat?", ...)`.
"""
