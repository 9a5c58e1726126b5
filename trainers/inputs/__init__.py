"""Bytes and records → what models take: images, text, random draws."""
