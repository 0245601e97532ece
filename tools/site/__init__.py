"""The documentation as a site: pages of the repository, made ready for Sphinx, built and looked through."""
