"""Distills a diffusion model of digits from many steps to one."""
