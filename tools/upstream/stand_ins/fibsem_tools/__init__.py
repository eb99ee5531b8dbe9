"""Stands in for fibsem-tools, of which DaCapo imports one class for its kind of sparse annotations.

The fibsem-tools that DaCapo asks for needs pydantic 1, where others of DaCapo's packages need pydantic 2.
"""
