"""attent pilot: small runs on a user's corpus that say beforehand which policy will pay."""
