"""Follows a program through calls, classes and files, with values half known."""
