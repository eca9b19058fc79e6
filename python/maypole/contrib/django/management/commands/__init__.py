"""Django finds the commands of the application here."""
