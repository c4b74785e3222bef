"""Styles from words."""
