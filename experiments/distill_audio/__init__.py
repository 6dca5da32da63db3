"""Distills the pitch of CREPE, and spoken words from voice to voice."""
