"""Study files and the plans that they describe."""
