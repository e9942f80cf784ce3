"""Drills on many hosts: Dask gives named scenarios and drills to workers, which run the installed harness."""
