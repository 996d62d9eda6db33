"""The jobs on Ray Data: prepare (photos -> faces), train (faces -> identities), generate (identities -> images),
evaluate (images -> metrics).

A job asks the tables what is done already, works on the rest, and commits each finished batch: the table is the
checkpoint, so a job can be killed at any moment and started again.
"""
