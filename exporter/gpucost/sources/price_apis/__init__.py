"""The clouds' public price APIs: one a file, `read` (I/O) beside pure `parse_*`.

An API is read in units (a region, a page's worth of parts) that can be done again one by one, so
that a refresh that was stopped goes on where it was. What is not wanted is dropped as it comes:
AWS's file of one region is hundreds of megabytes.
"""
