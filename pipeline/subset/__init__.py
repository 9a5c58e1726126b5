"""attent export-subset: the selected samples as files that other trainers read."""
