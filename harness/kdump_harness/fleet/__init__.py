"""Drills on many hosts: Dask hands named scenarios and drills to workers, which run the installed harness."""
