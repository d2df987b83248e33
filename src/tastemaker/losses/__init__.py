"""Objectives as plain functions of tensors."""
