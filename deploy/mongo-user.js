// Run once by the image, when the volume is empty: the user of projections and portal, for one database alone.
db.getSiblingDB("admin").createUser({
  user: "fleetbus",
  pwd: process.env.FLEETBUS_MONGO_PASSWORD,
  roles: [{ role: "readWrite", db: "fleetbus" }],
});
