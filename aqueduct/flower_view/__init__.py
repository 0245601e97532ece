"""What is changed of Flower: its columns, its login, and its place behind the API."""
