"""The package here is installed by test_third_party.py; imported by pytest it would join the registry of all tests."""

collect_ignore = ["my_attention.py"]
