"""Ground floor: frozen types, enums, errors, and the experiment file's schema. Imports nothing of Fairtrial."""
