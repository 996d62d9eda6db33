"""What every job is made of: its workers, its progress, and what it leaves under ROOT/jobs. No single job is
known here.
"""
