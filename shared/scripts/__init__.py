"""The Lua scripts, one file each; `shared/scripting.py` loads them."""
